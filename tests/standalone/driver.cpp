// driver check [NAME…]: every problem on one thread and on four, which must agree to the bit. For ThreadSanitizer.
// driver count [NAME…]: every problem once, its kernels' instructions counted. For callgrind.
#include "driver.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) static_cast<void>(name)
#endif

namespace driver {
namespace {

int64_t threads = 1;
bool counting = false;

std::map<std::string, Boxed>& registry() {
  static std::map<std::string, Boxed> functions;
  return functions;
}

std::set<std::string>& called() {
  static std::set<std::string> names;
  return names;
}

// Neighbouring items run on different threads, and no thread waits for another's.
void spread(int64_t begin, int64_t end, ParallelFunc work, void* context) {
  std::vector<std::thread> team;
  for (int64_t t = 0; t < threads; ++t)
    team.emplace_back([=] {
      for (int64_t i = begin + t; i < end; i += threads) work(i, i + 1, context);
    });
  for (std::thread& member : team) member.join();
}

bool same(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const size_t bytes = a[i].numel() * a[i].element_size();
    if (a[i].numel() != b[i].numel() || std::memcmp(a[i].const_data_ptr(), b[i].const_data_ptr(), bytes) != 0)
      return false;
  }
  return true;
}

bool check(const Problem& problem) {
  threads = 1;
  const Tensors alone = problem.run();
  threads = 4;
  const bool agree = same(alone, problem.run());
  std::printf("%s  %s\n", agree ? "ok    " : "DIFFER", problem.name.c_str());
  return agree;
}

void count(const Problem& problem) {
  problem.run();  // whatever is set up once
  CALLGRIND_ZERO_STATS;
  counting = true;
  problem.run();
  counting = false;
  CALLGRIND_DUMP_STATS_AT(problem.name.c_str());
}

int run(std::string_view mode, const std::set<std::string>& names) {
  if (mode != "check" && mode != "count") throw std::runtime_error("usage: driver check|count [NAME…]");
  const std::vector<Problem> known = problems();
  std::set<std::string> left = names;
  for (const Problem& problem : known) left.erase(problem.name);
  if (!left.empty()) throw std::runtime_error("no problem " + *left.begin());
  if (mode == "count") CALLGRIND_START_INSTRUMENTATION;
  bool good = true;
  for (const Problem& problem : known) {
    if (!names.empty() && names.count(problem.name) == 0) continue;
    if (mode == "count") {
      count(problem);
    } else {
      good = check(problem) && good;
    }
  }
  for (const auto& [name, function] : registry())
    if (names.empty() && called().count(name) == 0) throw std::runtime_error("no problem calls " + name);
  return good ? 0 : 1;
}

}  // namespace

Boxed registered(const std::string& name) {
  const auto found = registry().find(name);
  if (found == registry().end()) throw std::runtime_error("no kernel is registered for " + name);
  called().insert(name);
  return found->second;
}

}  // namespace driver

// The two functions of torch that the executable replaces: where the glue registers its kernels, and what runs them.
extern "C" AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, driver::Boxed function, uint64_t) {
  driver::registry()[name] = function;
  return 0;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc work, void* context) {
  if (begin >= end) return 0;
  if (driver::threads > 1) {
    driver::spread(begin, end, work, context);
    return 0;
  }
  if (driver::counting) CALLGRIND_TOGGLE_COLLECT;
  work(begin, end, context);
  if (driver::counting) CALLGRIND_TOGGLE_COLLECT;
  return 0;
}

int main(int count, char** arguments) {
  try {
    return driver::run(count < 2 ? "" : arguments[1], {arguments + std::min(count, 2), arguments + count});
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "driver: %s\n", problem.what());
    return 2;
  }
}
