from everlearn.app.desk.application import main

main()
