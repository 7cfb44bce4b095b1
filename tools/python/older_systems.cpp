// For wheels alone (tools/wheel): two functions by the versions that systems before Debian 12 have too, so that a wheel
// made there runs from glibc 2.34 and GCC 11's library on. Linked with --wrap, which sends every call here; both
// versions of each are the same code.
#include <condition_variable>
#include <mutex>

extern "C" {
double older_hypot(double x, double y);
void older_wait(std::condition_variable* condition, std::unique_lock<std::mutex>& lock);
__asm__(".symver older_hypot, hypot@GLIBC_2.2.5");
__asm__(".symver older_wait, _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");

double __wrap_hypot(double x, double y) { return older_hypot(x, y); }
void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(std::condition_variable* condition,
                                                                      std::unique_lock<std::mutex>& lock) {
  older_wait(condition, lock);
}
}
