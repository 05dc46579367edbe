"""Run the admin process; the supervisor starts it with its settings in the environment."""

from everlearn.app.admin.application import main

main()
