#!/bin/sh
# A disk for the sh plugin: a file, read and written with dd, by requests that run in parallel.
# shellcheck disable=SC2154 # the plugin sets $tmpdir
case $1 in
config) [ "$2" != size ] || echo "$3" >"$tmpdir/size" ;;
get_ready) truncate -s "$(cat "$tmpdir/size")" "$tmpdir/disk" ;;
get_size) cat "$tmpdir/size" ;;
thread_model) echo parallel ;;
can_write) exit 0 ;;
pread)
    exec dd if="$tmpdir/disk" skip="$4" count="$3" iflag=skip_bytes,count_bytes bs=64k status=none
    ;;
pwrite) exec dd of="$tmpdir/disk" seek="$4" conv=notrunc oflag=seek_bytes bs=64k status=none ;;
*) exit 2 ;;
esac
