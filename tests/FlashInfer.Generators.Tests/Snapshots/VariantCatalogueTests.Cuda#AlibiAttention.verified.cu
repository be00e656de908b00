namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kTransformsLogits = true;

  static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments&) {
    return logit + slope(at.head) * float(at.kv_position - at.qo_position);
  }

  static __device__ __forceinline__ float slope(int head) {
    return exp2f(-8.f * float(csharp::add(head, 1)) / 32.f);
  }
};
