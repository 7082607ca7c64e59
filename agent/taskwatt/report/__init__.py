"""What a person or a script reads: the triage document, and its rendering for a terminal."""
