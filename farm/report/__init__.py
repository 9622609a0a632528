"""Results for people and for programs: summary.json and one HTML file."""
