"""The run folder is the truth and MLflow its mirror: all that the store holds is derived from files.

A training writes files and never waits for a server, nor imports MLflow; a process of its own (`python -m
hrm_lab.mirror FOLDER ATTEMPT`) loads MLflow while the training loads torch, follows the folder and sends what is new.
"""
