from everlearn.app.admin.application import main

main()
