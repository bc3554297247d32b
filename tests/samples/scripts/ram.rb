# A RAM disk with all callbacks that nbdkit's ruby plugin knows, each able to fail.
$disk = "\0".b * 65_536
$fail = {}

def config(key, value)
  case key
  when 'fail' then $fail[value] = true
  when 'size' then $disk = "\0".b * value.to_i
  else raise "unknown parameter #{key}"
  end
end

def maybe_fail(name)
  return unless $fail[name]

  Nbdkit.set_error(name == 'zero' ? Errno::EOPNOTSUPP : Errno::ENOSPC::Errno)
  raise "no room for #{name}"
end

def config_complete = maybe_fail('config_complete')

def open(readonly)
  maybe_fail('open')
  { readonly: readonly }
end

def close(h)
  h[:closed] = true
end

def get_size(_h) = $disk.bytesize

def can_write(_h) = true

def can_flush(_h) = true

def can_trim(_h) = true

def is_rotational(_h) = true

def pread(_h, count, offset)
  maybe_fail('pread')
  $disk.byteslice(offset, count) + ($fail['long'] ? 'more' : '')
end

def pwrite(_h, buf, offset)
  maybe_fail('pwrite')
  Process.kill(:KILL, Process.pid) if $fail['kill']
  exit!(3) if $fail['exit']
  $disk[offset, buf.length] = buf
end

def flush(_h) = maybe_fail('flush')

def trim(_h, count, offset)
  maybe_fail('trim')
  clear(count, offset)
end

def zero(_h, count, offset, may_trim)
  maybe_fail('zero')
  raise 'no boolean' unless [true, false].include?(may_trim)
  return Nbdkit.set_error(Errno::EOPNOTSUPP.new) if $fail['quietly']

  clear(count, offset)
end

def clear(count, offset)
  $disk[offset, count] = "\0".b * count
end
