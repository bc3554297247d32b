-- A RAM disk for nbdkit's lua plugin, as short as it can be: what is measured is the plugin.
-- A string cannot be changed in Lua, so a table has one for each page of 4 KiB.
local zeroes = string.rep("\0", 4096)
local pages = {}
local size

function config(key, value)
    if key == "size" then size = math.tointeger(tonumber(value)) end
end

function open(readonly) return 1 end

function get_size(h) return size end

function pread(h, count, offset)
    if count == 4096 then return pages[offset] or zeroes end
    local parts = {}
    for i = 0, count - 1, 4096 do parts[#parts + 1] = pages[offset + i] or zeroes end
    return table.concat(parts)
end

function pwrite(h, buf, offset)
    for i = 1, #buf, 4096 do pages[offset + i - 1] = buf:sub(i, i + 4095) end
end
