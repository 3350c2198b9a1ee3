"""Runs on a Kubeflow Pipelines installation: submitted, listed, waited for, and their reports fetched."""
