"""libvirt: typed calls under deadlines. The only place that imports the binding.

facts       what comes out: domains, counters, events; imports nothing of libvirt
connection  lanes, deadlines, reconnection, silence of the daemon
domains     one function per call about domains
events      libvirt's callbacks -> facts
host        what libvirt knows of the host
errors      libvirt's errors -> the agent's
"""
