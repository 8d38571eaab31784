"""The runner: claims jobs, submits their orders, polls providers, records events."""
