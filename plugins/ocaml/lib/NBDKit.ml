include Nbdfork_api

let register_plugin = Nbdfork_host.register
