"""What every room uses: errors, whole files, the machine, the project's folders."""
