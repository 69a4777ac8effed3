"""From scores to a report: load SCORES folders, measure error rates, and render tables, figures and pages."""
