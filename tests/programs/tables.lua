-- Strings, tables, closures and coroutines; every object of Lua is a block of its own from realloc.
-- An emulated machine does the PART-th part of it.
local part = tonumber(os.getenv("PART") or 1)
local state = 20
local function random(n)
  state = state * 48271 % 2147483647
  return state % n
end

local function checksum(text)
  local a, b = 1, 0
  for i = 1, #text do
    a = (a + text:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return string.format("%08x", b * 65536 + a)
end

local words = {}
for i = 1, 3000 do
  local letters = {}
  for j = 1, random(12) + 1 do letters[j] = string.char(97 + random(26)) end
  words[i] = table.concat(letters)
end

-- A table whose keys come and go.
local map = {}
for step = 1, 600000 // part do
  local key = words[random(#words) + 1] .. random(20)
  if step % 3 == 0 then map[key] = nil else map[key] = (map[key] or "") .. step % 10 end
end
local keys = {}
for key in pairs(map) do keys[#keys + 1] = key end
table.sort(keys)
for i, key in ipairs(keys) do keys[i] = key .. "=" .. map[key] end
print("map", #keys, checksum(table.concat(keys, ";")))

-- Strings: patterns, substitutions, growth.
local text = table.concat(words, " ")
local replaced, count = text:gsub("([aeiou])(%a+)", function(a, b) return b:upper() .. a end)
print("gsub", count, checksum(replaced))
local grown = ""
for i = 1, #words // part do
  grown = grown .. words[i]
  if #grown > 20000 then grown = grown:sub(-5000) end
end
print("grown", #grown, checksum(grown))

-- Trees, built and dropped, with the collector in both of its modes.
local function tree(depth)
  if depth == 0 then return { random(100) } end
  return { tree(depth - 1), tree(depth - 1), tag = words[depth] }
end
local function sum(node)
  if #node == 1 then return node[1] end
  return sum(node[1]) + sum(node[2]) + #node.tag
end
for _, mode in ipairs { "generational", "incremental" } do
  collectgarbage(mode)
  local total = 0
  for _ = 1, math.max(20 // part, 1) do total = total + sum(tree(12)) end
  print("trees", total)
end

-- Coroutines: each has a stack that grows.
local function deep(n)
  if n == 0 then coroutine.yield(0) return 0 end
  return 1 + deep(n - 1)
end
local total = 0
for i = 1, 3000 // part do
  local thread = coroutine.create(deep)
  coroutine.resume(thread, i % 150)
  local _, value = coroutine.resume(thread)
  total = total + value
end
print("coroutines", total)
