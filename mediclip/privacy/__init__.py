"""What bounds what an update says about the images behind it: clipping, noise, accounting and a ledger."""
