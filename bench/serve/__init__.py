"""How commands start: a light process that outlives its command, and a server that has imported torch already.

`costeff ...` imports nothing heavy itself. It hands its command to the server that COSTEFF_SERVER names, where there
is one of the same installation, and else runs it in a child of its own. So a command that the kernel kills, for memory,
leaves somebody to say so, and the jobs of a workflow do not import torch and transformers, some seconds, each.

The server forks a child for each request. The child takes over the client's arguments, folder, environment, open
files and limits before it runs the command. What a library reads only when it is loaded cannot be taken over: a
client whose environment differs there is declined, and runs its command itself. Linux only; elsewhere a command runs
in its own process.
"""
