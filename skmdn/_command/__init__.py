"""The command `skmdn`: read a CSV file, fit, evaluate, draw, save and predict."""
