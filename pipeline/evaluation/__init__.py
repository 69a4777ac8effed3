"""From scores to a report: read score folders, measure, and show what was found."""
