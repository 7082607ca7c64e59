"""CPU per coroutine type and per route, held against what the programs recorded themselves."""
