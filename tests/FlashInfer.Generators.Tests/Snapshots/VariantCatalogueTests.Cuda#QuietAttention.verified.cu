namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kTransformsOutput = true;

  static __device__ __forceinline__ float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments&) {
    return csharp::divide(element, 1.f + csharp::fast_exp2(-lse2));
  }
};
