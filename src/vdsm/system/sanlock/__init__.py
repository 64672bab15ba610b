"""sanlock's daemon, and nothing but it: the one package that imports Debian's python3-sanlock.

Every call is done by a worker under a deadline, because the daemon, or the storage beneath it, may not answer. A call
that is given up goes on in its worker and is counted; a connection on which that happens is closed when it comes back,
so that no lease is got too late.
Calls that the daemon answers from memory have workers of their own: storage that hangs never delays them.

    daemon        lockspaces, formatting, looking
    connection    one registered connection of this process: leases taken on it are held until they are released, the
                  connection is closed, or the process ends; the daemon ends the process when it cannot keep them
    calls         how both ask the daemon
    facts         what it says: hosts, leases, errors

python3-sanlock is imported with the first call, so machines without it work as long as nobody needs it.
"""
