"""What goes wrong around the jobs, and what a user sees then: one table, walked by a test and printed as a page."""
