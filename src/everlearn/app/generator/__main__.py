"""Run the generator; the supervisor starts it with its settings in the environment."""

from everlearn.app.generator.application import main

main()
