"""From a program to its channels: labels, equations, rules, coupling, counts."""
