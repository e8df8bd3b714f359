-- Tables, strings and closures in Lua; its collector returns what it finds.
local state = 1
local function random(n)
  state = (state * 1103515245 + 12345) % 2147483648
  return (state // 65536) % n
end

local function tree(depth)
  if depth == 0 then return {} end
  return { tree(depth - 1), tree(depth - 1) }
end
local function count(t)
  return t[1] and 1 + count(t[1]) + count(t[2]) or 1
end

local nodes, stays = 0, tree(15)
for _ = 1, 60 do nodes = nodes + count(tree(13)) end
assert(nodes == 60 * (2 ^ 14 - 1) and count(stays) == 2 ^ 16 - 1)

local words = {}
for i = 1, 200000 do
  local key = "key " .. random(20000)
  words[key] = (words[key] or 0) + 1
end
local keys = {}
for k in pairs(words) do keys[#keys + 1] = k end
table.sort(keys)
local closures = {}
for i = 1, 100000 do closures[i] = function() return i end end
local sum = 0
for _, f in ipairs(closures) do sum = sum + f() end
local text = table.concat(keys, ","):gsub("key", "value")
print(#keys, #text, sum)
