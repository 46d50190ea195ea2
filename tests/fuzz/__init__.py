"""The API before schemathesis: requests made from its own document, allowed ones and others, alone and in chains.

`make fuzz` asks a running portal 2,000 times; `REQUESTS=20000 make fuzz` is the long run. Whoever asks is an
administrator, for whom nothing is out of reach. No answer may be the server's mistake, or other than the document says.
"""
