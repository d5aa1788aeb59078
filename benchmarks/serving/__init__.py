"""The service against other servers, side by side in one run on one machine: `make bench`."""
