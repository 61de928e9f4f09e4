from hrm_lab.cli import main

main()
