"""What every part of the project builds on: errors, files, parameters, tables, the data set."""
