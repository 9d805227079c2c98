"""Pictures and pages of a comparison."""
