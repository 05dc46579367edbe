from everlearn.app.worker.application import main

main()
