# A RAM disk with all callbacks that nbdkit's perl plugin knows, each able to fail.
use strict;
use warnings;
use POSIX ();

my $disk = "\0" x 65536;
my %fail;

sub config {
    my ($key, $value) = @_;
    if ($key eq 'fail') { $fail{$value} = 1 }
    elsif ($key eq 'size') { $disk = "\0" x $value }
    else { die "unknown parameter $key\n" }
}

sub maybe_fail {
    my ($name) = @_;
    return if !$fail{$name};
    Nbdkit::set_error($name eq 'zero' ? POSIX::EOPNOTSUPP() : POSIX::ENOSPC());
    die "no room for $name";
}

sub config_complete { maybe_fail('config_complete') }
sub open { my ($readonly) = @_; maybe_fail('open'); return { readonly => $readonly } }
sub close { my ($h) = @_; $h->{closed} = 1 }
sub get_size { return length $disk }
sub can_write { return 1 }
sub can_flush { return 1 }
sub can_trim { return 1 }
sub is_rotational { return 1 }

sub pread {
    my ($h, $count, $offset, $flags) = @_;
    maybe_fail('pread');
    Nbdkit::debug("reading $count bytes");
    return substr($disk, $offset, $count) . ($fail{long} ? 'more' : '');
}

sub pwrite {
    my ($h, $data, $offset, $flags) = @_;
    maybe_fail('pwrite');
    kill 9, $$ if $fail{kill};
    CORE::exit(3) if $fail{exit};
    substr($disk, $offset, length $data) = $data;
}

sub flush { maybe_fail('flush') }

sub trim { my ($h, $count, $offset, $flags) = @_; maybe_fail('trim'); clear($count, $offset) }

sub zero {
    my ($h, $count, $offset, $flags) = @_;
    maybe_fail('zero');
    Nbdkit::set_error(POSIX::EOPNOTSUPP()) if $fail{quietly};
    clear($count, $offset) if !$fail{quietly};
}

sub clear { my ($count, $offset) = @_; substr($disk, $offset, $count) = "\0" x $count }
