"""The command line client.

It must start at once, so nothing here imports the agent, and what a command needs is imported when it runs:

    main -> arguments (what can be typed) -> the module of the one command -> client -> transport
"""
