"""Sources of the objects and the model servers. Each source yields inventories."""
