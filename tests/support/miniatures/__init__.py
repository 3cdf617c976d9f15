"""Writers of miniature data sets in their official layouts, one file for each, all showing the same scene of known geometry."""
