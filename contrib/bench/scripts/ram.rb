# A RAM disk for nbdkit's ruby plugin, as short as it can be: what is measured is the plugin.
def config(key, value)
  $disk = "\0".b * value.to_i if key == 'size'
end

def open(readonly) = 1
def get_size(h) = $disk.bytesize
def pread(h, count, offset) = $disk.byteslice(offset, count)

def pwrite(h, buf, offset)
  $disk[offset, buf.length] = buf
end

def flush(h) = nil
