"""Published methods that COST-EFF is compared with."""
