"""Other packages' interfaces, so that their users' scripts run with an import line changed."""
