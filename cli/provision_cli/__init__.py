"""The program `provision`: the command line of the project provisioner."""
