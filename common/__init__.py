"""What every room may use: errors, files, parallel work, downloads, the choice of a device, command-line manners."""
