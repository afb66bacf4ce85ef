"""Who may do what: capabilities, who holds them from whom, and policies. Pure and synchronous; reads no clock."""
