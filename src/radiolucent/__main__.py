"""`python -m radiolucent` is the command `radiolucent`."""

from radiolucent.cli import main

if __name__ == "__main__":
    main()
