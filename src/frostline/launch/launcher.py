"""`accelerate launch`, which ends at once when the process that started it does."""

from accelerate.commands.launch import main

from frostline.forking import die_with_creator

if __name__ == "__main__":
    die_with_creator()
    main()
