"""Exact rules of other projects, one file each, for comparison with published runs. Know no model and no clock."""
