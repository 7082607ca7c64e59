"""Apart from the application: one that is imported where the tests run registers its tasks with every other one."""

LONG_NAME = "tests." + "long" * 2560
