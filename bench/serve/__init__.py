"""A job server: commands run in forks of a process that has imported torch already.

`costeff ...` imports nothing heavy itself. It sends its command to the server that COSTEFF_SERVER names, if that is of
the same installation, and runs it in a child process otherwise. The parent survives a command that is killed for its
memory and can report it; and the jobs of a workflow do not import torch and transformers each (6 CPU seconds).

The server forks a child for each request. The child takes over arguments, folder, environment, open files and limits
of the client, then runs the command. Some environment variables act only while a library is loaded; a client that
differs in one of these is declined and runs its command itself. Linux only.
"""
