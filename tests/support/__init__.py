"""Real parts for the tests: brokers on free ports, workers as subprocesses, an OTLP receiver that listens."""
