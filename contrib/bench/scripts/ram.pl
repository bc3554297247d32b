# A RAM disk for nbdkit's perl plugin, as short as it can be: what is measured is the plugin.
my $disk;
sub config { my ($key, $value) = @_; $disk = "\0" x $value if $key eq 'size' }
sub open { return 1 }
sub get_size { return length $disk }
sub can_write { return 1 }
sub pread { my ($h, $count, $offset) = @_; return substr $disk, $offset, $count }
sub pwrite { my ($h, $buf, $offset) = @_; substr($disk, $offset, length $buf) = $buf; }
sub flush { }
