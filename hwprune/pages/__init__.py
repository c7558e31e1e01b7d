"""What people look at: charts, the report's page, pictures of groups, progress."""
