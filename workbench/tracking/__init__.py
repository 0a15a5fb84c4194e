"""From files in a stage's directory to MLflow."""
