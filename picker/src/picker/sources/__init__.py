"""Where the objects and the model servers come from. Every source yields the same thing: inventories."""
